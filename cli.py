"""The checkout's door: `python cli.py …` is the installed `kdcache …`."""

from kdcache.cli import main

main(prog_name="kdcache")
