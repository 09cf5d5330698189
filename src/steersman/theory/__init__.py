"""Pure functions of arrays, named as the field names them: no network, environment or file in sight.

Import the part you need: ``from steersman.theory import returns``. The parts are ``returns``, ``values``,
``surrogates``, ``distributions``, ``distributional``, ``estimators``, ``natural``, ``exploration``, ``beliefs``
(``filters``, ``particles``), ``statistics``, ``comparison`` and ``trees``.
"""
