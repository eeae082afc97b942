"""From numbers to pages: tables, plots, galleries, published results."""
