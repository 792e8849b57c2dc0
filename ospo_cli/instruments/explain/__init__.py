"""One query: its products and what each word earned."""
