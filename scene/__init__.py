"""3D: cameras, radiance fields, surfaces, their renders and their files."""
