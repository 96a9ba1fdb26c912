"""What a weather station measures: a row of a table, one number a column.

Files: JSON object, `{"temperature": 21.5, "humidity": null, ...}`; keys that are no column are left out. Value: the
same as a dict, NaN for what is missing.
"""

from fourm_plugins.bases import Column, ScalarVector, VectorSettings


class WeatherSettings(VectorSettings):
    """A config may name other columns, with other ranges."""

    columns: tuple[Column, ...] = (
        Column(name="temperature", lowest=-30, highest=50, unit="°C"),
        Column(name="humidity", lowest=0, highest=100, unit="%"),
        Column(name="pressure", lowest=950, highest=1050, unit="hPa"),
        Column(name="wind", lowest=0, highest=40, unit="m/s"),
        Column(name="irradiance", lowest=0, highest=1200, unit="W/m²"),
    )


class Weather(ScalarVector):
    Settings = WeatherSettings
    gaps = True  # a sensor fails now and then
    licence = "Apache-2.0"
    description = "what a weather station measures"
