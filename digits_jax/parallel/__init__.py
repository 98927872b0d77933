"""Device meshes, several seeds in one program, several processes."""
