"""Everything a study keeps on disk: paths, records, leases, provenance."""
