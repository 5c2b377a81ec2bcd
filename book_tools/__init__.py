"""What turns chapters into products: execution, site, Colab copies, ledger. Never imported by dlt_helpers."""
