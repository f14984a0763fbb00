"""Restoration of a folder of pictures: what is there, what is done, who does what, and where the results go."""
