"""A car: VehicleControlAPI. Prerequisites: locked doors and a pressed brake before the engine starts, the engine before cruise
control, zip codes before a distance."""
from envtune.bfcl import Call
from envtune.synthetic.world import Again, Family, World

DOORS = ("driver", "passenger", "rear_left", "rear_right")
STATUS = ("fuel", "battery", "doors", "climate", "headlights", "parkingBrake", "brakePedal", "engine")
ROUTES = (("Rivermist", "Stonebrook"), ("Maplecrest", "Silverpine"), ("Shadowridge", "Sunset Valley"), ("Oakendale", "Willowbend"),
          ("Crescent Hollow", "Autumnville"), ("San Francisco", "Rivermist"), ("Silverpine", "Oakendale"),
          ("San Francisco", "Silverpine"), ("Stonebrook", "San Francisco"))
ZIP = {"Rivermist": "83214", "Stonebrook": "74532", "Maplecrest": "56108", "Silverpine": "62947", "Shadowridge": "71354",
       "Sunset Valley": "83462", "Oakendale": "47329", "Willowbend": "52013", "Crescent Hollow": "69238", "Autumnville": "51479",
       "San Francisco": "94016"}


class Vehicle(World):
    class_name = "VehicleControlAPI"
    named = frozenset({"place"})
    families = {
        "start": Family(
            ("Start the engine and navigate to {place}.", "Get the car running and set the destination to {place}.",
             "We leave now: engine on, then directions to {place}."),
            ("Fire up the car, I have to get to {place}.",),
            ("Start the engine and set a destination.",), "place", 2.5),
        "cruise": Family(
            ("Set cruise control to {speed} with a gap of {gap}.", "Cruise at {speed} and keep {gap} meters to the next car.",
             "Hold the speed at {speed} by cruise control, {gap} meters behind the next car."),
            ("Let the car keep {speed} by itself, with {gap} meters of room.",),
            ("Set cruise control with a gap of {gap}.",), "speed", 2.0),
        "fill": Family(
            ("Fill {gallons} gallons of fuel.", "Put {gallons} gallons into the tank.", "Add {gallons} gallons of gas."),
            ("The car gets {gallons} gallons.",),
            ("Put some fuel into the tank.",), "gallons"),
        "navigate": Family(
            ("Navigate to {place}.", "Set the destination to {place}.", "Take me to {place}."),
            ("I need to drive to {place}.",),
            ("Set the destination.", "I want to go somewhere."), "place"),
        "distance": Family(
            ("How far is it from {origin} to {target}?", "Tell me the distance between {origin} and {target}.",
             "Estimate the way from {origin} to {target}."),
            ("What is the mileage from {origin} to {target}?",),
            ("How far is it from {origin}?",), "target", 1.5),
        "climate": Family(
            ("Set the temperature to {degrees} with fan speed {fan}.", "Make it {degrees} degrees, fan at {fan}.",
             "Climate control: {degrees} degrees and fan {fan}."),
            ("I want {degrees} degrees in here and the fan on {fan}.",),
            ("Set the climate control with fan speed {fan}.",), "degrees"),
        "lights": Family(
            ("Turn the headlights {mode} and put {gallons} gallons into the tank.",
             "Headlights {mode} please, and fill {gallons} gallons.", "Switch the headlights {mode} and add {gallons} gallons of fuel."),
            ("Lamps {mode}, and {gallons} gallons of gas.",),
            ("Turn the headlights {mode} and put some fuel into the tank.",), "gallons"),
        "park": Family(
            ("{verb} the parking brake and show the {option} status.", "Please {verb} the parking brake, then display {option}.",
             "I want you to {verb} the parking brake and tell me about {option}."),
            ("Can you {verb} the handbrake and report {option}?",),
            ("{verb} the parking brake and show a status.",), "option"),
        "reach": Family(
            ("Can I drive {miles} miles with the fuel I have?", "Is there enough fuel for {miles} miles?",
             "Will the tank do {miles} miles?"),
            ("Could we make it {miles} miles?",),
            ("Can I drive some miles with the fuel I have?",), "miles", 0.7),
        "liters": Family(
            ("Fill {liters} liters of fuel.", "Put {liters} liters into the tank.", "Add {liters} liters of gas."),
            ("The car gets {liters} liters.",),
            ("Put some liters into the tank.",), "liters", 0.7),
    }

    def __init__(self, draw, names, depth):
        super().__init__(draw, names, depth)
        locked = self.ready(0.4)
        self.doors = {door: locked or draw.chance(0.3) for door in DOORS}  # door -> whether it is locked
        self.brake = self.ready(0.2)
        self.engine = self.ready(0.25)
        self.fuel = float(draw.between(5, 20))
        self.parked = draw.chance(0.5)
        self.config = {
            "fuelLevel": self.fuel, "batteryVoltage": round(12 + draw.between(1, 9) / 10, 1),
            "engineState": "running" if self.engine else "stopped",
            "doorStatus": {door: "locked" if locked else "unlocked" for door, locked in self.doors.items()},
            "acTemperature": float(draw.between(15, 28)), "fanSpeed": 50, "acMode": "auto", "humidityLevel": 50.0,
            "headLightStatus": "off", "parkingBrakeStatus": "engaged" if self.parked else "released", "parkingBrakeForce": 0.0,
            "slopeAngle": 0.0, "brakePedalStatus": "pressed" if self.brake else "released",
            "brakePedalForce": 1000.0 if self.brake else 0.0, "distanceToNextVehicle": 50.0, "cruiseStatus": "inactive",
            "destination": "None", "frontLeftTirePressure": 32.0, "frontRightTirePressure": 32.0, "rearLeftTirePressure": 30.0,
            "rearRightTirePressure": 30.0, "random_seed": draw.below(10**6)}

    def _running(self) -> list[Call]:
        """What it takes to have the engine on."""
        if self.engine:
            return []
        calls = []
        if not all(self.doors.values()):
            calls.append(Call("lockDoors", {"unlock": False, "door": list(DOORS)}))
        if not self.brake:
            calls.append(Call("pressBrakePedal", {"pedalPosition": 1.0}))
        self.doors, self.brake, self.engine = dict.fromkeys(DOORS, True), True, True
        return [*calls, Call("startEngine", {"ignitionMode": "START"})]

    def start(self):
        if self.engine:
            raise Again
        values = {"place": self.names.place()}
        self.keep("start", values)
        *prepare, ignition = self._running()
        return self.plan("start", values, [ignition, Call("set_navigation", {"destination": values["place"]})], prepare)

    def cruise(self):
        values = {"speed": 5 * self.draw.between(4, 24), "gap": 5 * self.draw.between(4, 40)}
        self.keep("cruise", values)
        if self.depth == 0 and not self.engine:
            raise Again
        call = Call("setCruiseControl", {"speed": values["speed"], "activate": True, "distanceToNextVehicle": values["gap"]})
        return self.plan("cruise", values, [call], self._running())

    def _gallons(self) -> float:
        gallons = self.draw.between(2, 28) / 2
        if self.fuel + gallons > 48:
            raise Again
        return gallons

    def fill(self):
        values = {"gallons": self._gallons()}
        self.keep("fill", values)
        self.fuel += values["gallons"]
        return self.plan("fill", values, [Call("fillFuelTank", {"fuelAmount": values["gallons"]})])

    def navigate(self):
        values = {"place": self.names.place()}
        self.keep("navigate", values)
        return self.plan("navigate", values, [Call("set_navigation", {"destination": values["place"]})])

    def distance(self):
        origin, target = self.draw.sample(self.draw.choice(ROUTES), 2)
        values = {"origin": origin, "target": target}
        self.keep("distance", values)
        look_up = [Call("get_zipcode_based_on_city", {"city": city}) for city in (origin, target) if city not in self.known]
        self.known |= {origin, target}
        return self.plan("distance", values, [Call("estimate_distance", {"cityA": ZIP[origin], "cityB": ZIP[target]})], look_up)

    def climate(self):
        values = {"degrees": self.draw.between(16, 29), "fan": 5 * self.draw.between(1, 20)}
        self.keep("climate", values)
        return self.plan("climate", values, [Call("adjustClimateControl", {"temperature": values["degrees"], "fanSpeed": values["fan"]})])

    def lights(self):
        values = {"mode": self.draw.choice(("on", "off")), "gallons": self._gallons()}
        self.keep("lights", values)
        self.fuel += values["gallons"]
        return self.plan("lights", values, [Call("setHeadlights", {"mode": values["mode"]}),
                                            Call("fillFuelTank", {"fuelAmount": values["gallons"]})])

    def park(self):
        verb = "release" if self.parked else "engage"
        values = {"verb": verb, "option": self.draw.choice(STATUS)}
        self.keep("park", values)
        self.parked = not self.parked
        return self.plan("park", values, [Call("activateParkingBrake", {"mode": verb}),
                                          Call("displayCarStatus", {"option": values["option"]})])

    def reach(self):
        values = {"miles": self.draw.between(10, 900)}
        self.keep("reach", values)
        return self.plan("reach", values, [Call("estimate_drive_feasibility_by_mileage", {"distance": values["miles"]})])

    def liters(self):
        values = {"liters": 10 * self.draw.between(1, 6)}
        self.keep("liters", values)
        gallons = values["liters"] * 0.264172
        if self.fuel + gallons > 48:
            raise Again
        self.fuel += gallons
        return self.plan("liters", values, [Call("fillFuelTank", {"fuelAmount": gallons})],
                         [Call("liter_to_gallon", {"liter": values["liters"]})])
