"""Collection: rows and pictures from files, Hub data sets and web pages, each with source and licence."""
