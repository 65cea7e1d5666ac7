"""From records to tables, figures and verdicts. Imports no other room but the records."""
