"""The raw protocol on socketify (Python on uWebSockets), with its own publish: --port P. Prints "ready P".

Runs in the environment that scripts/setup-peers makes, since nothing else needs the package.
"""

from __future__ import annotations

import argparse

from socketify import App, AppListenOptions, CompressOptions


def main(port: int) -> None:
    app = App()

    def upgrade(response, request, context):
        key = request.get_header("sec-websocket-key")
        response.upgrade(key, "", "", context, request.get_url())

    def opened(ws):
        room = ws.get_user_data()
        if room != "/echo":
            ws.subscribe(room)

    def message(ws, text, opcode):
        room = ws.get_user_data()
        if room == "/echo":
            ws.send(text, opcode)
        else:
            app.publish(room, text, opcode)

    app.ws(
        "/*",
        {
            "compression": CompressOptions.DISABLED,
            "idle_timeout": 0,
            "max_backpressure": 64 * 1024 * 1024,
            "max_payload_length": 1024 * 1024,
            "upgrade": upgrade,
            "open": opened,
            "message": message,
        },
    )
    app.listen(AppListenOptions(port=port, host="127.0.0.1"), lambda _: print(f"ready {port}", flush=True))
    app.run()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    main(parser.parse_args().port)
