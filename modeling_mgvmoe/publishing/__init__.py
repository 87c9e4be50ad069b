"""From a trained model to a repository on the Hub."""
