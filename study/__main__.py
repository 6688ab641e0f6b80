"""`python -m study` is `dh2l-study`."""

from study.cli import main

main()
