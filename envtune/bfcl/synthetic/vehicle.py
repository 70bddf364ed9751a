"""A car: VehicleControlAPI.

Prerequisites: locked doors and a pressed brake before the engine starts, the engine before cruise
control, zip codes before a distance.
"""

from envtune.bfcl.synthetic.world import Again, Family, World
from envtune.bfcl.tasks import Call

DOORS = ("driver", "passenger", "rear_left", "rear_right")
STATUS = (
    "fuel",
    "battery",
    "doors",
    "climate",
    "headlights",
    "parkingBrake",
    "brakePedal",
    "engine",
)
ROUTES = (
    ("Rivermist", "Stonebrook"),
    ("Maplecrest", "Silverpine"),
    ("Shadowridge", "Sunset Valley"),
    ("Oakendale", "Willowbend"),
    ("Crescent Hollow", "Autumnville"),
    ("San Francisco", "Rivermist"),
    ("Silverpine", "Oakendale"),
    ("San Francisco", "Silverpine"),
    ("Stonebrook", "San Francisco"),
)
ZIP = {
    "Rivermist": "83214",
    "Stonebrook": "74532",
    "Maplecrest": "56108",
    "Silverpine": "62947",
    "Shadowridge": "71354",
    "Sunset Valley": "83462",
    "Oakendale": "47329",
    "Willowbend": "52013",
    "Crescent Hollow": "69238",
    "Autumnville": "51479",
    "San Francisco": "94016",
}


def _tank(unit: str, some: str, weight: float = 1.0) -> Family:
    """The ways to ask for fuel in a unit."""
    amount = f"{{{unit}}} {unit}"
    return Family(
        (
            f"Fill {amount} of fuel.",
            f"Put {amount} into the tank.",
            f"Add {amount} of gas.",
            f"I need {amount} of fuel in the tank.",
            f"Could you fill in {amount} of gas?",
            f"The tank should get {amount} more.",
            f"Go ahead and fill the tank with {amount}.",
        ),
        (
            f"Please put {amount} of gas into the car.",
            f"I want {{{unit}}} more {unit} of fuel.",
        ),
        (
            f"Put some {some} into the tank.",
            f"Add some {unit} of gas.",
            f"I need some {unit} of fuel in the tank.",
        ),
        unit,
        weight,
    )


class Vehicle(World):
    class_name = "VehicleControlAPI"
    named = frozenset({"place"})
    families = {
        "start": Family(
            (
                "Start the engine and navigate to {place}.",
                "Get the car running and set the destination to {place}.",
                "We leave now: engine on, then directions to {place}.",
                "Could you start the car and set the navigation to {place}?",
                "First start the engine, then navigate to {place}.",
                "The destination is {place}: start the car and navigate there.",
                "Please turn the engine on and show me the way to {place}.",
            ),
            (
                "Get the engine running, then set the destination to {place}.",
                "Start the car now and take me to {place}.",
            ),
            (
                "Start the engine and set a destination.",
                "Get the car running and set a destination.",
                "First start the engine, then navigate somewhere.",
            ),
            "place",
            2.5,
        ),
        "cruise": Family(
            (
                "Set cruise control to {speed} with a gap of {gap}.",
                "Cruise at {speed} and keep {gap} meters to the next car.",
                "Hold the speed at {speed} by cruise control, {gap} meters behind the next car.",
                "I want cruise control at {speed}, {gap} meters behind the next car.",
                "Could you set the cruise control to {speed} and keep a gap of {gap}?",
                "With a gap of {gap} meters, hold the speed at {speed} by cruise control.",
                "Please cruise at {speed} with {gap} meters to the next car.",
            ),
            (
                "Keep the speed at {speed} by cruise control, with a gap of {gap} meters.",
                "Now cruise {gap} meters behind the next car, at a speed of {speed}.",
            ),
            (
                "Set cruise control with a gap of {gap}.",
                "I want cruise control, {gap} meters behind the next car.",
                "Could you cruise and keep {gap} meters to the next car?",
            ),
            "speed",
            2.0,
        ),
        "fill": _tank("gallons", "fuel"),
        "navigate": Family(
            (
                "Navigate to {place}.",
                "Set the destination to {place}.",
                "Take me to {place}.",
                "I want to drive to {place}.",
                "Could you show me the way to {place}?",
                "Please set the navigation to {place}.",
                "The destination is {place}, navigate there.",
            ),
            ("I need to get to {place}, set the destination.", "Tell me the way to {place}."),
            (
                "Set the destination.",
                "I want to go somewhere.",
                "Could you navigate me to a place?",
                "Please set the navigation.",
            ),
            "place",
        ),
        "distance": Family(
            (
                "How far is it from {origin} to {target}?",
                "Tell me the distance between {origin} and {target}.",
                "Estimate the way from {origin} to {target}.",
                "I want to know how far it is from {origin} to {target}.",
                "Could you tell me how many miles it is from {origin} to {target}?",
                "What is the distance from {origin} to {target}?",
                "From {origin}, how far do I drive to {target}?",
            ),
            (
                "How many miles is it from {origin} to {target}?",
                "Estimate the distance between {origin} and {target}.",
            ),
            (
                "How far is it from {origin}?",
                "Tell me the distance between {origin} and another city.",
                "I want to know how far it is from {origin}.",
            ),
            "target",
            1.5,
        ),
        "climate": Family(
            (
                "Set the temperature to {degrees} with fan speed {fan}.",
                "Make it {degrees} degrees, fan at {fan}.",
                "Climate control: {degrees} degrees and fan {fan}.",
                "I want {degrees} degrees in the car and fan speed {fan}.",
                "Could you set the climate control to {degrees} degrees, fan speed {fan}?",
                "With the fan at {fan}, set the temperature to {degrees} degrees.",
                "Please change the temperature to {degrees} and the fan to {fan}.",
            ),
            (
                "The temperature should be {degrees} degrees, with the fan at {fan}.",
                "I need the climate control at {degrees} degrees and fan speed {fan}.",
            ),
            (
                "Set the climate control with fan speed {fan}.",
                "Please change the temperature and set the fan to {fan}.",
                "With the fan at {fan}, set another temperature.",
            ),
            "degrees",
        ),
        "lights": Family(
            (
                "Turn the headlights {mode} and put {gallons} gallons into the tank.",
                "Headlights {mode} please, and fill {gallons} gallons.",
                "Switch the headlights {mode} and add {gallons} gallons of fuel.",
                "I want the headlights {mode} and {gallons} gallons of fuel in the tank.",
                "Could you switch the headlights {mode} and fill in {gallons} gallons?",
                "The headlights should be {mode}, and the tank needs {gallons} gallons.",
                "Headlights {mode}, then add {gallons} gallons of gas.",
            ),
            (
                "I need the headlights {mode} and {gallons} gallons more in the tank.",
                "First turn the headlights {mode}, then fill the tank with {gallons} gallons.",
            ),
            (
                "Turn the headlights {mode} and put some fuel into the tank.",
                "Headlights {mode} please, and fill some gallons.",
                "Switch the headlights {mode} and add some fuel.",
            ),
            "gallons",
        ),
        "park": Family(
            (
                "{verb} the parking brake and show the {option} status.",
                "Please {verb} the parking brake, then display {option}.",
                "I want you to {verb} the parking brake and tell me about {option}.",
                "Could you {verb} the parking brake and tell me the {option} status?",
                "First {verb} the parking brake, then show me {option}.",
                "I need you to {verb} the parking brake and display the status of {option}.",
                "Now {verb} the parking brake, then check the {option} status.",
            ),
            (
                "{verb} the parking brake, then tell me about the {option} status.",
                "Go ahead and {verb} the parking brake, I want to see the {option} status too.",
            ),
            (
                "{verb} the parking brake and show a status.",
                "Please {verb} the parking brake, then display something.",
                "First {verb} the parking brake, then check the status of something.",
            ),
            "option",
        ),
        "reach": Family(
            (
                "Can I drive {miles} miles with the fuel I have?",
                "Is there enough fuel for {miles} miles?",
                "Will the tank do {miles} miles?",
                "I want to drive {miles} miles, is the fuel enough?",
                "Could the car go {miles} miles with the fuel in the tank?",
                "Tell me if I have enough fuel for {miles} miles.",
                "Do I need more fuel to drive {miles} miles?",
            ),
            (
                "Is the fuel in the tank enough for {miles} miles?",
                "Can the car drive {miles} miles with the fuel that is left?",
            ),
            (
                "Can I drive some miles with the fuel I have?",
                "Will the tank do a certain number of miles?",
                "Tell me if I have enough fuel for some miles.",
            ),
            "miles",
            0.7,
        ),
        "liters": _tank("liters", "liters", 0.7),
    }

    def __init__(self, draw, names, depth):
        super().__init__(draw, names, depth)
        locked = self.ready(0.4)
        self.doors = {
            door: locked or draw.chance(0.3) for door in DOORS
        }  # door -> whether it is locked
        self.brake = self.ready(0.2)
        self.engine = self.ready(0.25)
        self.fuel = float(draw.between(5, 20))
        self.parked = draw.chance(0.5)
        self.config = {
            "fuelLevel": self.fuel,
            "batteryVoltage": round(12 + draw.between(1, 9) / 10, 1),
            "engineState": "running" if self.engine else "stopped",
            "doorStatus": {
                door: "locked" if locked else "unlocked" for door, locked in self.doors.items()
            },
            "acTemperature": float(draw.between(15, 28)),
            "fanSpeed": 50,
            "acMode": "auto",
            "humidityLevel": 50.0,
            "headLightStatus": "off",
            "parkingBrakeStatus": "engaged" if self.parked else "released",
            "parkingBrakeForce": 0.0,
            "slopeAngle": 0.0,
            "brakePedalStatus": "pressed" if self.brake else "released",
            "brakePedalForce": 1000.0 if self.brake else 0.0,
            "distanceToNextVehicle": 50.0,
            "cruiseStatus": "inactive",
            "destination": "None",
            "frontLeftTirePressure": 32.0,
            "frontRightTirePressure": 32.0,
            "rearLeftTirePressure": 30.0,
            "rearRightTirePressure": 30.0,
            "random_seed": draw.below(10**6),
        }

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
        values = self.keep("start", {"place": self.names.place()})
        *prepare, ignition = self._running()
        own = [ignition, Call("set_navigation", {"destination": values["place"]})]
        return self.plan("start", values, own, prepare)

    def cruise(self):
        values = {"speed": 5 * self.draw.between(4, 24), "gap": 5 * self.draw.between(4, 40)}
        self.keep("cruise", values)
        if self.depth == 0 and not self.engine:
            raise Again
        call = Call(
            "setCruiseControl",
            {"speed": values["speed"], "activate": True, "distanceToNextVehicle": values["gap"]},
        )
        return self.plan("cruise", values, [call], self._running())

    def _gallons(self) -> float:
        gallons = self.draw.between(2, 28) / 2
        if self.fuel + gallons > 48:
            raise Again
        return gallons

    def _fill(self, gallons: float) -> Call:
        self.fuel += gallons
        return Call("fillFuelTank", {"fuelAmount": gallons})

    def fill(self):
        values = self.keep("fill", {"gallons": self._gallons()})
        return self.plan("fill", values, [self._fill(values["gallons"])])

    def navigate(self):
        place = self.names.place()
        return self.simple("navigate", {"place": place}, "set_navigation", destination=place)

    def distance(self):
        origin, target = self.draw.sample(self.draw.choice(ROUTES), 2)
        values = self.keep("distance", {"origin": origin, "target": target})
        unknown = [city for city in (origin, target) if self.once(city)]
        look_up = [Call("get_zipcode_based_on_city", {"city": city}) for city in unknown]
        own = [Call("estimate_distance", {"cityA": ZIP[origin], "cityB": ZIP[target]})]
        return self.plan("distance", values, own, look_up)

    def climate(self):
        degrees, fan = self.draw.between(16, 29), 5 * self.draw.between(1, 20)
        values, tool = {"degrees": degrees, "fan": fan}, "adjustClimateControl"
        return self.simple("climate", values, tool, temperature=degrees, fanSpeed=fan)

    def lights(self):
        values = {"mode": self.draw.choice(("on", "off")), "gallons": self._gallons()}
        self.keep("lights", values)
        own = [Call("setHeadlights", {"mode": values["mode"]}), self._fill(values["gallons"])]
        return self.plan("lights", values, own)

    def park(self):
        verb = "release" if self.parked else "engage"
        values = self.keep("park", {"verb": verb, "option": self.draw.choice(STATUS)})
        self.parked = not self.parked
        own = [
            Call("activateParkingBrake", {"mode": verb}),
            Call("displayCarStatus", {"option": values["option"]}),
        ]
        return self.plan("park", values, own)

    def reach(self):
        miles, tool = self.draw.between(10, 900), "estimate_drive_feasibility_by_mileage"
        return self.simple("reach", {"miles": miles}, tool, distance=miles)

    def liters(self):
        values = self.keep("liters", {"liters": 10 * self.draw.between(1, 6)})
        gallons = values["liters"] * 0.264172
        if self.fuel + gallons > 48:
            raise Again
        look_up = [Call("liter_to_gallon", {"liter": values["liters"]})]
        return self.plan("liters", values, [self._fill(gallons)], look_up)
