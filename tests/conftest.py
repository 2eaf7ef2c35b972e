import os

# No window may open while tests run, with or without a screen.
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
