"""Backbones, the network of a trial, and pretrained weights."""
