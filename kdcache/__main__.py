"""`python -m kdcache …` is the installed `kdcache …`."""

from kdcache.cli import main

main(prog_name="kdcache")
