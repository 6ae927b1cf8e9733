"""The checkout's door: `python cli.py …` is the installed `kdcache …`."""

from kdcache.cli import main

if __name__ == "__main__":
    main(prog_name="kdcache")
