"""Checks of the functions that the reader writes in the lessons, a module for each lesson."""
