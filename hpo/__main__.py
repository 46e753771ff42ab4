"""`python -m hpo`."""

from hpo.cli.main import main

main()
