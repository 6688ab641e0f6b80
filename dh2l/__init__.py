"""Deep Hierarchical-Hyperspherical Learning (DH2L) as a library.

Metrics (`dh2l.metrics`), energy E (`dh2l.energy`), hierarchical classifier (`dh2l.classifier`) and
regularisation H (`dh2l.hierarchy`), constraints between spheres (`dh2l.constraints`), models, data
and trainer. Nothing here imports the study harness, Ray, MLflow or pandas, and importing the package
imports no torch: take what you need from its modules.
"""
