"""Reports of X-rays whose sentences have boxes: written from what is known of virtual patients."""
