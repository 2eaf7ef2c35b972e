"""CT files: from what is on disk to a volume in the patient frame."""
