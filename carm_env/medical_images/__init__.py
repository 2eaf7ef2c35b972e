"""Data sets of medical images with classes or boxes, which users bring: MedMNIST, DeepLesion and PolypSet."""
