"""The tests in the folders below find `cases` and `recursions` because this file is here."""
