"""Run Autobahn's cases against a server; reports go to ./reports. For Python 2.7 (wstest) and 3 (kosoku) alike.

    run_cases.py kosoku MESSAGES HOST:PORT/PATH --include=1.* [...]
    run_cases.py wstest MESSAGES ws://HOST:PORT/PATH 1.* [...]

MESSAGES is how many a case of sections 12 and 13 sends. In the suite that is a number in a table, 1,000; here it is set
on the cases that were made from the table.
"""

# mypy: ignore-errors
# Python 2 knows no annotations.

import json
import sys


def run_kosoku(messages, arguments):
    from kosoku import _caseindex, _cli

    _caseindex.initialize_shims()
    import case12_x_x

    shorten(case12_x_x, messages)
    sys.argv = ["kosoku", "--outdir=reports"] + arguments  # noqa: RUF005 - Python 2 cannot unpack here
    _cli.main()


def run_wstest(messages, arguments):
    # Nothing of the suite may be imported before this: it chooses the event loop.
    from autobahntestsuite import wstest

    shorten(sys.modules["autobahntestsuite.case"], messages)
    spec = {
        "outdir": "./reports",
        "servers": [{"agent": "server", "url": arguments[0]}],
        "cases": arguments[1:],
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    with open("spec.json", "w") as file:
        json.dump(spec, file)
    sys.argv = ["wstest", "-m", "fuzzingclient", "-s", "spec.json"]
    wstest.run()


def shorten(cases, messages):
    for case in cases.Case12_X_X + cases.Case13_X_X:
        case.COUNT = messages


if __name__ == "__main__":
    {"kosoku": run_kosoku, "wstest": run_wstest}[sys.argv[1]](int(sys.argv[2]), sys.argv[3:])
