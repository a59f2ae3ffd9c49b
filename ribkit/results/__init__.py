"""What the study says: tables, figures, claims."""
