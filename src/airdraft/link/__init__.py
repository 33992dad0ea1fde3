"""The link between device and edge. `base` defines links; `const`, `markov2`, `rayleigh`, `trace` and `nr` are links;
`presets` names them; `pipe` has the arithmetic that most of them share; `relay` carries real connections over any."""
