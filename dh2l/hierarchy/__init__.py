"""Classifier on spheres, its regulariser R and the constraints between spheres."""
