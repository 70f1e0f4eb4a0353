"""Reports on runs: figures, tables, words, one page."""
