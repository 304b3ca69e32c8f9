"""The HTML page: what each kind of run says (`kinds/`), the tables, the document and its security policy."""
