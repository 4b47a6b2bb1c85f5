"""`python -m tuskws_bench` is the console command `tuskws-bench`."""

from tuskws_bench.cli import main

if __name__ == "__main__":
    main()
