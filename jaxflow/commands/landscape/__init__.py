"""The command that draws where networks were trained and what lies between their minima."""
