"""LoFi: an encoder of images and texts, and a light language model that reads and writes boxes."""
