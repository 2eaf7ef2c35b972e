"""Data sets of X-rays of people with labels of body parts, which users bring: UNIFESP, MURA and FleXray."""
