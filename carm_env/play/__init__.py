"""``carm-env play``: a person drives the C-arm in a desktop window, with the keyboard alone."""
