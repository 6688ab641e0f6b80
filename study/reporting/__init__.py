"""Results for readers: tables, exports, figures, the HTML report."""
