"""`python -m tuskws_fast`, and the console command `tuskws-fast`."""

from tuskws_fast.cli import main

if __name__ == "__main__":
    main()
