"""One file per version. An applied version is never edited: a change is a new file."""
