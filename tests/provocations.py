"""Every hinted error, provoked on BFCL's own tools, and calls that follow the hint's direction.

A row: hint id, class, scenario (what BFCL loads), calls before, the call that fails, calls that
follow the hint. The last of these must succeed; an empty list stands where the hint says that
nothing can be done.
"""

from envtune.bfcl import Call

TREE = {
    "root": {
        "home": {
            "type": "directory",
            "contents": {
                "docs": {
                    "type": "directory",
                    "contents": {
                        "a.txt": {"type": "file", "content": "one"},
                        "deep": {"type": "directory", "contents": {}},
                    },
                },
                "full": {
                    "type": "directory",
                    "contents": {
                        "a.txt": {"type": "file", "content": "x"},
                        "docs": {"type": "directory", "contents": {}},
                    },
                },
                "a.txt": {"type": "file", "content": "two"},
                "b.txt": {"type": "file", "content": "three"},
            },
        }
    }
}
ORDERS = {"authenticated": True, "market_status": "Open"}
TRAVEL = {
    "access_token": "t0k",
    "token_expires_in": 2,
    "credit_card_list": {
        "77": {"balance": 5000},
        "78": {"card_number": "9"},
        "79": {"balance": 10},
    },
}
CAR = {"fuelLevel": 10.0}
LOCKED = {
    "doorStatus": dict.fromkeys(("driver", "passenger", "rear_left", "rear_right"), "locked"),
    "fuelLevel": 10.0,
}
FLIGHT = {
    "access_token": "t0k",
    "card_id": "77",
    "travel_date": "2024-10-10",
    "travel_from": "SFO",
    "travel_to": "LAX",
    "travel_class": "economy",
}
TICKET = {
    "ticket_queue": [{"id": 5, "title": "t", "status": "Open", "created_by": "me"}],
    "current_user": "me",
}
LOGIN = ("message_login", {"user_id": "USR001"})
POSTING = ("authenticate_twitter", {"username": "john", "password": "john123"})
AUTHENTICATE = (
    "authenticate_travel",
    {
        "client_id": "a",
        "client_secret": "b",
        "refresh_token": "c",
        "grant_type": "read_write",
        "user_first_name": "d",
        "user_last_name": "e",
    },
)
G, M, S, W, K, B, T, V = (
    "GorillaFileSystem",
    "MathAPI",
    "MessageAPI",
    "TwitterAPI",
    "TicketAPI",
    "TradingBot",
    "TravelAPI",
    "VehicleControlAPI",
)

ROWS = [
    *[
        (
            "gfs-path-as-name",
            G,
            TREE,
            [],
            (tool, arguments),
            [("cd", {"folder": "docs"}), (tool, arguments | {"file_name": "a.txt"})],
        )
        for tool, arguments in (
            ("cat", {"file_name": "docs/a.txt"}),
            ("rm", {"file_name": "docs/a.txt"}),
            ("tail", {"file_name": "docs/a.txt"}),
            ("sort", {"file_name": "docs/a.txt"}),
            ("wc", {"file_name": "docs/a.txt"}),
            ("grep", {"file_name": "docs/a.txt", "pattern": "o"}),
            ("echo", {"file_name": "docs/a.txt", "content": "x"}),
        )
    ],
    (
        "gfs-path-as-name",
        G,
        TREE,
        [],
        ("touch", {"file_name": "docs/new"}),
        [("cd", {"folder": "docs"}), ("touch", {"file_name": "new"})],
    ),
    (
        "gfs-path-as-name",
        G,
        TREE,
        [],
        ("mkdir", {"dir_name": "docs/new"}),
        [("cd", {"folder": "docs"}), ("mkdir", {"dir_name": "new"})],
    ),
    (
        "gfs-path-as-name",
        G,
        TREE,
        [],
        ("rmdir", {"dir_name": "docs/deep"}),
        [("cd", {"folder": "docs"}), ("rmdir", {"dir_name": "deep"})],
    ),
    *[
        (
            "gfs-invalid-character",
            G,
            TREE,
            [],
            (tool, {argument: "n?"} | more),
            [(tool, {argument: name} | more)],
        )
        for tool, argument, name, more in (
            ("cat", "file_name", "a.txt", {}),
            ("touch", "file_name", "n", {}),
            ("mkdir", "dir_name", "n", {}),
            ("echo", "file_name", "a.txt", {"content": "x"}),
        )
    ],
    (
        "gfs-diff-path",
        G,
        TREE,
        [],
        ("diff", {"file_name1": "a.txt", "file_name2": "docs/a.txt"}),
        [("diff", {"file_name1": "a.txt", "file_name2": "b.txt"})],
    ),
    *[
        (
            "gfs-source-path",
            G,
            TREE,
            [],
            (tool, {"source": "docs/a.txt", "destination": "c"}),
            [("cd", {"folder": "docs"}), (tool, {"source": "a.txt", "destination": "c"})],
        )
        for tool in ("mv", "cp")
    ],
    *[
        (
            "gfs-destination-path",
            G,
            TREE,
            [],
            (tool, {"source": "b.txt", "destination": "docs/deep"}),
            [(tool, {"source": "b.txt", "destination": "docs"})],
        )
        for tool in ("mv", "cp")
    ],
    *[
        (
            "gfs-not-here",
            G,
            TREE,
            [("cd", {"folder": "docs"})],
            (tool, arguments),
            [("ls", {}), ("cd", {"folder": ".."}), (tool, arguments)],
        )
        for tool, arguments in (
            ("cat", {"file_name": "b.txt"}),
            ("rm", {"file_name": "b.txt"}),
            ("mv", {"source": "b.txt", "destination": "c"}),
            ("cp", {"source": "b.txt", "destination": "c"}),
            ("tail", {"file_name": "b.txt"}),
            ("sort", {"file_name": "b.txt"}),
            ("wc", {"file_name": "b.txt"}),
            ("grep", {"file_name": "b.txt", "pattern": "t"}),
            ("echo", {"file_name": "b.txt", "content": "x"}),
            ("diff", {"file_name1": "a.txt", "file_name2": "b.txt"}),
        )
    ],
    (
        "gfs-not-here",
        G,
        TREE,
        [],
        ("rmdir", {"dir_name": "deep"}),
        [("cd", {"folder": "docs"}), ("rmdir", {"dir_name": "deep"})],
    ),
    (
        "gfs-cd-one-level",
        G,
        TREE,
        [],
        ("cd", {"folder": "docs/deep"}),
        [("cd", {"folder": "docs"}), ("cd", {"folder": "deep"})],
    ),
    (
        "gfs-cd-missing",
        G,
        TREE,
        [],
        ("cd", {"folder": "deep"}),
        [("ls", {}), ("cd", {"folder": "docs"}), ("cd", {"folder": "deep"})],
    ),
    (
        "gfs-find-path",
        G,
        TREE,
        [],
        ("find", {"path": "nowhere", "name": "a"}),
        [("find", {"name": "a"})],
    ),
    (
        "gfs-is-directory",
        G,
        TREE,
        [],
        ("cat", {"file_name": "docs"}),
        [("cd", {"folder": "docs"}), ("ls", {}), ("cat", {"file_name": "a.txt"})],
    ),
    (
        "gfs-exists",
        G,
        TREE,
        [],
        ("mkdir", {"dir_name": "docs"}),
        [("mkdir", {"dir_name": "other"})],
    ),
    (
        "gfs-exists",
        G,
        TREE,
        [],
        ("touch", {"file_name": "a.txt"}),
        [("echo", {"file_name": "a.txt", "content": "x"})],
    ),
    *[
        (
            "gfs-target-exists",
            G,
            TREE,
            [],
            (tool, {"source": name, "destination": "full"}),
            [
                ("cd", {"folder": "full"}),
                ("rm", {"file_name": name}),
                ("cd", {"folder": ".."}),
                (tool, {"source": name, "destination": "full"}),
            ],
        )
        for tool in ("mv", "cp")
        for name in ("a.txt", "docs")
    ],
    *[
        (
            "gfs-not-directory",
            G,
            TREE,
            [],
            (tool, {"source": "a.txt", "destination": "b.txt"}),
            [("ls", {}), (tool, {"source": "a.txt", "destination": "c.txt"})],
        )
        for tool in ("mv", "cp")
    ],
    (
        "gfs-not-directory",
        G,
        TREE,
        [],
        ("rmdir", {"dir_name": "a.txt"}),
        [("rm", {"file_name": "a.txt"})],
    ),
    (
        "gfs-not-empty",
        G,
        TREE,
        [],
        ("rmdir", {"dir_name": "docs"}),
        [("rm", {"file_name": "docs"})],
    ),
    (
        "math-imperial-units",
        M,
        {},
        [],
        ("imperial_si_conversion", {"value": 1, "unit_in": "Kilometers", "unit_out": "miles"}),
        [("imperial_si_conversion", {"value": 1, "unit_in": "km", "unit_out": "miles"})],
    ),
    (
        "math-si-units",
        M,
        {},
        [],
        ("si_unit_conversion", {"value": 1, "unit_in": "meters", "unit_out": "km"}),
        [("si_unit_conversion", {"value": 1, "unit_in": "m", "unit_out": "km"})],
    ),
    (
        "math-logarithm",
        M,
        {},
        [],
        ("logarithm", {"value": 10, "base": 1, "precision": 5}),
        [("logarithm", {"value": 10, "base": 10, "precision": 5})],
    ),
    (
        "math-square-root",
        M,
        {},
        [],
        ("square_root", {"number": 2, "precision": "x"}),
        [("square_root", {"number": 2, "precision": 5})],
    ),
    *[
        ("math-one-list", M, {}, [], (tool, {"numbers": []}), [(tool, {"numbers": [1, 2]})])
        for tool in ("mean", "standard_deviation", "min_value", "max_value", "sum_values")
    ],
    *[
        ("message-login", S, {}, [], call, [LOGIN, call])
        for call in (
            ("send_message", {"receiver_id": "USR002", "message": "x"}),
            ("view_messages_sent", {}),
            ("search_messages", {"keyword": "x"}),
            ("get_message_stats", {}),
            ("delete_message", {"receiver_id": "USR002"}),
        )
    ],
    (
        "message-receiver-id",
        S,
        {},
        [LOGIN],
        ("send_message", {"receiver_id": "Bob", "message": "x"}),
        [
            ("get_user_id", {"user": "Bob"}),
            ("send_message", {"receiver_id": "USR002", "message": "x"}),
        ],
    ),
    (
        "message-receiver-id",
        S,
        {},
        [LOGIN],
        ("delete_message", {"receiver_id": "Bob"}),
        [("get_user_id", {"user": "Bob"}), ("delete_message", {"receiver_id": "USR002"})],
    ),
    (
        "message-user-name",
        S,
        {},
        [],
        ("get_user_id", {"user": "bob"}),
        [("list_users", {}), ("get_user_id", {"user": "Bob"})],
    ),
    (
        "message-contact-exists",
        S,
        {},
        [],
        ("add_contact", {"user_name": "Bob"}),
        [("get_user_id", {"user": "Bob"})],
    ),
    (
        "message-contact-id",
        S,
        {"user_count": 3},
        [],
        ("add_contact", {"user_name": "Eve"}),
        [("add_contact", {"user_name": "Eve"})],
    ),
    *[
        (
            "posting-login",
            W,
            {
                "tweets": {
                    "3": {"id": 3, "username": "john", "content": "x", "tags": [], "mentions": []}
                }
            },
            [],
            call,
            [POSTING, call],
        )
        for call in (
            ("post_tweet", {"content": "x"}),
            ("retweet", {"tweet_id": 3}),
            ("comment", {"tweet_id": 3, "comment_content": "x"}),
            ("follow_user", {"username_to_follow": "x"}),
            ("unfollow_user", {"username_to_unfollow": "bob"}),
            ("list_all_following", {}),
        )
    ],
    (
        "posting-id-as-text",
        W,
        {},
        [POSTING, ("post_tweet", {"content": "x"})],
        ("retweet", {"tweet_id": "the first"}),
        [("retweet", {"tweet_id": 0})],
    ),
    *[
        (
            "posting-tweet-id",
            W,
            {},
            [POSTING, ("post_tweet", {"content": "x"})],
            (tool, {"tweet_id": 9} | more),
            [("search_tweets", {"keyword": "x"}), (tool, {"tweet_id": 0} | more)],
        )
        for tool, more in (
            ("retweet", {}),
            ("comment", {"comment_content": "y"}),
            ("mention", {"mentioned_usernames": ["@y"]}),
            ("get_tweet", {}),
            ("get_tweet_comments", {}),
        )
    ],
    *[
        (
            "ticket-login",
            K,
            {},
            [],
            call,
            [("ticket_login", {"username": "me", "password": "x"}), call],
        )
        for call in (("create_ticket", {"title": "x"}), ("get_user_tickets", {}))
    ],
    *[
        (
            "ticket-id",
            K,
            TICKET,
            [],
            (tool, {"ticket_id": 6} | more),
            [("get_user_tickets", {}), (tool, {"ticket_id": 5} | more)],
        )
        for tool, more in (
            ("get_ticket", {}),
            ("close_ticket", {}),
            ("resolve_ticket", {"resolution": "x"}),
            ("edit_ticket", {"updates": {"title": "y"}}),
        )
    ],
    (
        "ticket-done-already",
        K,
        TICKET,
        [("close_ticket", {"ticket_id": 5})],
        ("close_ticket", {"ticket_id": 5}),
        [("get_ticket", {"ticket_id": 5})],
    ),
    (
        "ticket-done-already",
        K,
        TICKET,
        [("resolve_ticket", {"ticket_id": 5, "resolution": "x"})],
        ("resolve_ticket", {"ticket_id": 5, "resolution": "x"}),
        [("get_ticket", {"ticket_id": 5})],
    ),
    (
        "ticket-fields",
        K,
        TICKET,
        [],
        ("edit_ticket", {"ticket_id": 5, "updates": {"due": "x"}}),
        [("edit_ticket", {"ticket_id": 5, "updates": {"description": "x"}})],
    ),
    *[
        (
            "trading-login",
            B,
            {"market_status": "Open"},
            [],
            call,
            [("trading_login", {"username": "a", "password": "b"}), call],
        )
        for call in (
            ("get_account_info", {}),
            ("fund_account", {"amount": 5.0}),
            ("withdraw_funds", {"amount": 5.0}),
            ("get_order_history", {}),
            ("get_watchlist", {}),
            ("get_transaction_history", {}),
            ("remove_stock_from_watchlist", {"symbol": "NVDA"}),
            ("place_order", {"order_type": "Buy", "symbol": "ZETA", "price": 1.0, "amount": 1}),
        )
    ],
    (
        "trading-symbol",
        B,
        ORDERS,
        [],
        ("get_stock_info", {"symbol": "Zeta Corp"}),
        [("get_symbol_by_name", {"name": "Zeta Corp"}), ("get_stock_info", {"symbol": "ZETA"})],
    ),
    (
        "trading-symbol",
        B,
        ORDERS,
        [],
        ("place_order", {"order_type": "Buy", "symbol": "Zeta Corp", "price": 1.0, "amount": 1}),
        [
            ("get_symbol_by_name", {"name": "Zeta Corp"}),
            ("place_order", {"order_type": "Buy", "symbol": "ZETA", "price": 1.0, "amount": 1}),
        ],
    ),
    (
        "trading-order-id",
        B,
        ORDERS,
        [],
        ("cancel_order", {"order_id": 1}),
        [("get_order_history", {}), ("cancel_order", {"order_id": 12446})],
    ),
    (
        "trading-order-done",
        B,
        ORDERS,
        [],
        ("cancel_order", {"order_id": 12345}),
        [("get_order_details", {"order_id": 12446}), ("cancel_order", {"order_id": 12446})],
    ),
    (
        "trading-order-amounts",
        B,
        ORDERS,
        [],
        ("place_order", {"order_type": "Buy", "symbol": "ZETA", "price": 0, "amount": 1}),
        [
            ("get_stock_info", {"symbol": "ZETA"}),
            ("place_order", {"order_type": "Buy", "symbol": "ZETA", "price": 22.09, "amount": 1}),
        ],
    ),
    (
        "trading-funds",
        B,
        ORDERS,
        [],
        ("place_order", {"order_type": "Buy", "symbol": "ZETA", "price": 22.0, "amount": 9999}),
        [
            ("get_account_info", {}),
            ("place_order", {"order_type": "Buy", "symbol": "ZETA", "price": 22.0, "amount": 9}),
        ],
    ),
    (
        "trading-funds",
        B,
        ORDERS,
        [],
        ("withdraw_funds", {"amount": 20000.0}),
        [("fund_account", {"amount": 20000.0}), ("withdraw_funds", {"amount": 20000.0})],
    ),
    (
        "trading-market-closed",
        B,
        {"authenticated": True},
        [],
        ("withdraw_funds", {"amount": 5.0}),
        [],
    ),
    (
        "trading-amount",
        B,
        ORDERS,
        [],
        ("fund_account", {"amount": -5.0}),
        [("fund_account", {"amount": 5.0})],
    ),
    (
        "trading-amount",
        B,
        ORDERS,
        [],
        ("withdraw_funds", {"amount": -5.0}),
        [("withdraw_funds", {"amount": 5.0})],
    ),
    (
        "trading-not-watched",
        B,
        ORDERS,
        [],
        ("remove_stock_from_watchlist", {"symbol": "Nvidia"}),
        [("get_watchlist", {}), ("remove_stock_from_watchlist", {"symbol": "NVDA"})],
    ),
    (
        "travel-route-by-code",
        T,
        TRAVEL,
        [],
        (
            "get_flight_cost",
            {
                "travel_from": "San Francisco",
                "travel_to": "LAX",
                "travel_date": "2024-10-10",
                "travel_class": "economy",
            },
        ),
        [
            ("get_nearest_airport_by_city", {"location": "San Francisco"}),
            (
                "get_flight_cost",
                {
                    "travel_from": "SFO",
                    "travel_to": "LAX",
                    "travel_date": "2024-10-10",
                    "travel_class": "economy",
                },
            ),
        ],
    ),
    (
        "travel-no-route",
        T,
        TRAVEL,
        [],
        (
            "get_flight_cost",
            {
                "travel_from": "GFD",
                "travel_to": "SFO",
                "travel_date": "2024-10-10",
                "travel_class": "economy",
            },
        ),
        [
            ("get_nearest_airport_by_city", {"location": "Los Angeles"}),
            (
                "get_flight_cost",
                {
                    "travel_from": "SFO",
                    "travel_to": "LAX",
                    "travel_date": "2024-10-10",
                    "travel_class": "economy",
                },
            ),
        ],
    ),
    (
        "travel-no-route",
        T,
        TRAVEL,
        [],
        ("book_flight", FLIGHT | {"travel_from": "GFD", "travel_to": "SFO"}),
        [("book_flight", FLIGHT)],
    ),
    *[
        (
            "travel-airport-code",
            T,
            TRAVEL,
            [],
            ("book_flight", FLIGHT | {end: "Los Angeles"}),
            [("get_nearest_airport_by_city", {"location": "Los Angeles"}), ("book_flight", FLIGHT)],
        )
        for end in ("travel_from", "travel_to")
    ],
    (
        "travel-class",
        T,
        TRAVEL,
        [],
        (
            "get_flight_cost",
            {
                "travel_from": "SFO",
                "travel_to": "LAX",
                "travel_date": "2024-10-10",
                "travel_class": "Economy",
            },
        ),
        [
            (
                "get_flight_cost",
                {
                    "travel_from": "SFO",
                    "travel_to": "LAX",
                    "travel_date": "2024-10-10",
                    "travel_class": "economy",
                },
            )
        ],
    ),
    (
        "travel-card",
        T,
        TRAVEL,
        [],
        ("book_flight", FLIGHT | {"card_id": "4111"}),
        [("get_all_credit_cards", {}), ("book_flight", FLIGHT)],
    ),
    (
        "travel-card",
        T,
        TRAVEL,
        [("book_flight", FLIGHT)],
        (
            "purchase_insurance",
            {
                "access_token": "t0k",
                "insurance_type": "x",
                "booking_id": "@booking",
                "insurance_cost": 5.0,
                "card_id": "4111",
            },
        ),
        [
            ("get_all_credit_cards", {}),
            (
                "purchase_insurance",
                {
                    "access_token": "t0k",
                    "insurance_type": "x",
                    "booking_id": "@booking",
                    "insurance_cost": 5.0,
                    "card_id": "77",
                },
            ),
        ],
    ),
    (
        "travel-card-funds",
        T,
        TRAVEL,
        [],
        ("book_flight", FLIGHT | {"card_id": "79"}),
        [
            ("get_credit_card_balance", {"access_token": "t0k", "card_id": "77"}),
            ("book_flight", FLIGHT),
        ],
    ),
    (
        "travel-card-balance",
        T,
        TRAVEL,
        [],
        ("book_flight", FLIGHT | {"card_id": "78"}),
        [("get_all_credit_cards", {}), ("book_flight", FLIGHT)],
    ),
    (
        "travel-budget-booking",
        T,
        TRAVEL | {"budget_limit": 9000.0},
        [],
        ("book_flight", FLIGHT),
        [
            ("set_budget_limit", {"access_token": "t0k", "budget_limit": 900.0}),
            ("book_flight", FLIGHT),
        ],
    ),
    (
        "travel-budget-insurance",
        T,
        TRAVEL | {"budget_limit": 900.0},
        [("book_flight", FLIGHT)],
        (
            "purchase_insurance",
            {
                "access_token": "t0k",
                "insurance_type": "x",
                "booking_id": "@booking",
                "insurance_cost": 950.0,
                "card_id": "77",
            },
        ),
        [
            ("set_budget_limit", {"access_token": "t0k", "budget_limit": 990.0}),
            (
                "purchase_insurance",
                {
                    "access_token": "t0k",
                    "insurance_type": "x",
                    "booking_id": "@booking",
                    "insurance_cost": 950.0,
                    "card_id": "77",
                },
            ),
        ],
    ),
    (
        "travel-card-known",
        T,
        TRAVEL,
        [],
        (
            "register_credit_card",
            {
                "access_token": "t0k",
                "card_number": "77",
                "expiration_date": "01/2030",
                "cardholder_name": "x",
                "card_verification_number": 1,
            },
        ),
        [("get_all_credit_cards", {})],
    ),
    (
        "travel-exchange",
        T,
        TRAVEL,
        [],
        ("compute_exchange_rate", {"base_currency": "EUR", "target_currency": "GBP", "value": 1.0}),
        [
            (
                "compute_exchange_rate",
                {"base_currency": "EUR", "target_currency": "USD", "value": 1.0},
            ),
            (
                "compute_exchange_rate",
                {"base_currency": "USD", "target_currency": "GBP", "value": 1.25},
            ),
        ],
    ),
    *[
        (
            "travel-token",
            T,
            TRAVEL | state,
            [],
            (tool, arguments | {"access_token": "wrong"}),
            [AUTHENTICATE, (tool, arguments | {"access_token": "@token"})],
        )
        for state in ({}, {"token_expires_in": 0})
        for tool, arguments in (
            ("book_flight", FLIGHT),
            ("get_booking_history", {}),
            ("get_credit_card_balance", {"card_id": "77"}),
            ("set_budget_limit", {"budget_limit": 5.0}),
            (
                "register_credit_card",
                {
                    "card_number": "1",
                    "expiration_date": "01/2030",
                    "cardholder_name": "x",
                    "card_verification_number": 1,
                },
            ),
        )
    ],
    (
        "travel-token",
        T,
        {},
        [],
        (
            "register_credit_card",
            {
                "access_token": "x",
                "card_number": "1",
                "expiration_date": "01/2030",
                "cardholder_name": "x",
                "card_verification_number": 1,
            },
        ),
        [
            AUTHENTICATE,
            (
                "register_credit_card",
                {
                    "access_token": "@token",
                    "card_number": "1",
                    "expiration_date": "01/2030",
                    "cardholder_name": "x",
                    "card_verification_number": 1,
                },
            ),
        ],
    ),
    *[
        (
            "travel-booking-id",
            T,
            TRAVEL,
            [("book_flight", FLIGHT)],
            (tool, arguments | {"booking_id": "0"}),
            [
                ("get_booking_history", {"access_token": "t0k"}),
                (tool, arguments | {"booking_id": "@booking"}),
            ],
        )
        for tool, arguments in (
            ("cancel_booking", {"access_token": "t0k"}),
            ("retrieve_invoice", {"access_token": "t0k"}),
            ("contact_customer_support", {"message": "x"}),
            (
                "purchase_insurance",
                {
                    "access_token": "t0k",
                    "insurance_type": "x",
                    "insurance_cost": 5.0,
                    "card_id": "77",
                },
            ),
        )
    ],
    (
        "vehicle-distance-by-zipcode",
        V,
        CAR,
        [],
        ("estimate_distance", {"cityA": "Rivermist", "cityB": "Stonebrook"}),
        [
            ("get_zipcode_based_on_city", {"city": "Rivermist"}),
            ("get_zipcode_based_on_city", {"city": "Stonebrook"}),
            ("estimate_distance", {"cityA": "83214", "cityB": "74532"}),
        ],
    ),
    (
        "vehicle-distance-unknown",
        V,
        CAR,
        [],
        ("estimate_distance", {"cityA": "83214", "cityB": "00000"}),
        [
            ("get_zipcode_based_on_city", {"city": "Stonebrook"}),
            ("estimate_distance", {"cityA": "83214", "cityB": "74532"}),
        ],
    ),
    (
        "vehicle-doors",
        V,
        CAR,
        [],
        ("startEngine", {"ignitionMode": "START"}),
        [
            (
                "lockDoors",
                {"unlock": False, "door": ["driver", "passenger", "rear_left", "rear_right"]},
            ),
            ("pressBrakePedal", {"pedalPosition": 1}),
            ("startEngine", {"ignitionMode": "START"}),
        ],
    ),
    (
        "vehicle-brake",
        V,
        LOCKED,
        [],
        ("startEngine", {"ignitionMode": "START"}),
        [("pressBrakePedal", {"pedalPosition": 1}), ("startEngine", {"ignitionMode": "START"})],
    ),
    (
        "vehicle-brake",
        V,
        LOCKED,
        [("pressBrakePedal", {"pedalPosition": 0.5})],
        ("startEngine", {"ignitionMode": "START"}),
        [("pressBrakePedal", {"pedalPosition": 1}), ("startEngine", {"ignitionMode": "START"})],
    ),
    (
        "vehicle-ignition-mode",
        V,
        LOCKED,
        [("pressBrakePedal", {"pedalPosition": 1})],
        ("startEngine", {"ignitionMode": "start"}),
        [("startEngine", {"ignitionMode": "START"})],
    ),
    (
        "vehicle-tank-empty",
        V,
        LOCKED | {"fuelLevel": -1.0},
        [("pressBrakePedal", {"pedalPosition": 1})],
        ("startEngine", {"ignitionMode": "START"}),
        [
            ("displayCarStatus", {"option": "fuel"}),
            ("fillFuelTank", {"fuelAmount": 10}),
            ("startEngine", {"ignitionMode": "START"}),
        ],
    ),
    (
        "vehicle-tank-empty",
        V,
        {"fuelLevel": -5.0},
        [],
        ("fillFuelTank", {"fuelAmount": 1}),
        [("fillFuelTank", {"fuelAmount": 10})],
    ),
    (
        "vehicle-cruise-engine",
        V,
        LOCKED,
        [],
        ("setCruiseControl", {"speed": 65, "activate": True, "distanceToNextVehicle": 100}),
        [
            ("pressBrakePedal", {"pedalPosition": 1}),
            ("startEngine", {"ignitionMode": "START"}),
            ("setCruiseControl", {"speed": 65, "activate": True, "distanceToNextVehicle": 100}),
        ],
    ),
    (
        "vehicle-cruise-speed",
        V,
        {"engineState": "running"},
        [],
        ("setCruiseControl", {"speed": 63, "activate": True, "distanceToNextVehicle": 100}),
        [("setCruiseControl", {"speed": 65, "activate": True, "distanceToNextVehicle": 100})],
    ),
    (
        "vehicle-tank",
        V,
        CAR,
        [],
        ("fillFuelTank", {"fuelAmount": 45}),
        [("displayCarStatus", {"option": "fuel"}), ("fillFuelTank", {"fuelAmount": 40})],
    ),
    (
        "vehicle-status-option",
        V,
        CAR,
        [],
        ("displayCarStatus", {"option": "everything"}),
        [("displayCarStatus", {"option": "fuel"})],
    ),
    (
        "vehicle-brake-mode",
        V,
        CAR,
        [],
        ("activateParkingBrake", {"mode": "engaged"}),
        [("activateParkingBrake", {"mode": "engage"})],
    ),
    (
        "vehicle-lights-mode",
        V,
        CAR,
        [],
        ("setHeadlights", {"mode": "On"}),
        [("setHeadlights", {"mode": "on"})],
    ),
    (
        "vehicle-weather-source",
        V,
        CAR,
        [],
        ("get_outside_temperature_from_weather_com", {}),
        [("get_outside_temperature_from_google", {})],
    ),
    ("any-unknown-tool", G, TREE, [], ("teleport", {}), [("ls", {})]),
    ("any-unknown-argument", G, TREE, [], ("ls", {"path": "x"}), [("ls", {"a": True})]),
    ("any-missing-argument", G, TREE, [], ("cat", {}), [("cat", {"file_name": "a.txt"})]),
    ("any-argument-type", G, TREE, [], ("cd", {"folder": 5}), [("cd", {"folder": "docs"})]),
    (
        "any-argument-type",
        V,
        CAR,
        [],
        ("fillFuelTank", {"fuelAmount": "5"}),
        [("fillFuelTank", {"fuelAmount": 5})],
    ),
    (
        "any-argument-type",
        B,
        ORDERS,
        [],
        ("get_transaction_history", {"start_date": "yesterday"}),
        [("get_transaction_history", {"start_date": "2024-01-01"})],
    ),
]


def play(row):
    """Return (hint id, class, failing call, its result, results of the calls that follow)."""
    from envtune.bfcl.toolbox import Toolbox

    hint_id, class_name, scenario, before, failing, follow = row
    box = Toolbox.of_scenario((class_name,), {class_name: scenario})

    def execute(name, arguments):
        filled = {
            "@token": lambda: box.instances[class_name].access_token,
            "@booking": lambda: next(iter(box.instances[class_name].booking_record)),
        }
        return box.execute(
            Call(
                name,
                {
                    k: filled[v]() if isinstance(v, str) and v in filled else v
                    for k, v in arguments.items()
                },
            )
        )

    for call in before:
        execute(*call)
    result = execute(*failing)
    return hint_id, class_name, Call(*failing), result, [execute(*call) for call in follow]
