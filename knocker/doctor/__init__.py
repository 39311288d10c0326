"""`knocker doctor`: what a stranger could forge is forged, and the gate tells what it believed (contract 5)."""
