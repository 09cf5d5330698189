"""Language models from the terminal: trained, asked, measured, merged."""
