"""What people see of the figures: tables in the terminal, pages, CI summaries."""
