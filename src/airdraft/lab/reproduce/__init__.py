"""The experiments of published papers, run again: on recorded pairs, billed as each paper bills, and honestly."""
