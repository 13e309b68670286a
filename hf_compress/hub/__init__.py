"""The one room that touches the Hub."""
