"""Virtual patients: an articulated skeleton posed, scaled and clothed in tissue."""
