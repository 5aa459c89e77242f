"""`python -m guard_server`: the same as `guard`."""

from guard_server.cli import main

if __name__ == "__main__":
    main()
