"""The link between device and edge. `base` says what a link is; `const`, `markov2`, `rayleigh`, `trace` and `nr` are
links; `presets` names them; `pipe` is the arithmetic most of them share; `relay` carries real connections over any."""
