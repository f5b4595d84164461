"""What a graph holds, listed, labelled, packed and kept sound; nothing is computed here."""
