"""Runs that begin with the rows and layers of an older one."""
