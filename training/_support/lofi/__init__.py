"""Training of LoFi, the location-aware encoder of images and texts."""
