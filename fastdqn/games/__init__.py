"""The games: EnvPool behind one interface, their actions, their known scores."""
