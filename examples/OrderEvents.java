// A complete small consumer: Java 17, Spring Boot, Spring AMQP, JdbcTemplate. What it does, and why, is in
// docs/consuming.md. As text: its syntax is checked here (tests/consumers.sh), and it is not run.
//
// Dependencies: spring-boot-starter-amqp, spring-boot-starter-jdbc, spring-boot-starter-json, your database's driver.
//
// application.properties:
//   spring.rabbitmq.addresses=amqp://guest:guest@127.0.0.1:5672/%2f
//   spring.rabbitmq.listener.simple.acknowledge-mode=auto    # acknowledged when the method has returned: after the commit
//   spring.rabbitmq.listener.simple.prefetch=10
//   spring.datasource.url=jdbc:postgresql:orders
//   payments.environment=production
//
// Tables, in the database that your orders are in:
//   CREATE TABLE orders (out_trade_no text PRIMARY KEY, amount_minor bigint NOT NULL, state text NOT NULL DEFAULT 'new',
//     trade_no text, refunded_minor bigint NOT NULL DEFAULT 0);
//   CREATE TABLE seen (message_id text PRIMARY KEY);
//   CREATE TABLE shipments (out_trade_no text PRIMARY KEY);
//   CREATE TABLE reviews (message_id text, why text NOT NULL, body text NOT NULL);

package com.example.payments;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import org.springframework.amqp.core.Message;
import org.springframework.amqp.rabbit.annotation.RabbitListener;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.dao.DataAccessException;
import org.springframework.dao.DataIntegrityViolationException;
import org.springframework.jdbc.core.JdbcTemplate;
import org.springframework.stereotype.Component;
import org.springframework.transaction.TransactionException;
import org.springframework.transaction.support.TransactionTemplate;

@Component
public class OrderEvents {
    private static final Logger LOG = LoggerFactory.getLogger(OrderEvents.class);
    private final JdbcTemplate db;
    private final TransactionTemplate transaction;
    private final ObjectMapper json;
    private final String environment;

    public OrderEvents(JdbcTemplate db, TransactionTemplate transaction, ObjectMapper json,
            @Value("${payments.environment}") String environment) {
        this.db = db;
        this.transaction = transaction;
        this.json = json;
        this.environment = environment;
    }

    /**
     * The message is kept here and tried again. What is thrown would give it back to the queue: it would count as
     * delivered again, and RabbitMQ 4 drops what a quorum queue has delivered 20 times.
     */
    @RabbitListener(queues = "payments.orders")
    public void take(Message message) throws InterruptedException {
        while (true) {
            try {
                handle(message);
                return;
            } catch (DataAccessException | TransactionException error) {
                // Ours, and it passes: the database is away.
                LOG.warn("not handled, and tried again", error);
                Thread.sleep(1000);
            }
        }
    }

    /** One message, one transaction: everything of it, or nothing. */
    private void handle(Message message) {
        // What PostgreSQL keeps in no text, however often it is tried.
        String id = clean(message.getMessageProperties().getMessageId());
        String body = clean(new String(message.getBody(), StandardCharsets.UTF_8));
        try {
            transaction.executeWithoutResult(status -> apply(id, body));
        } catch (DataIntegrityViolationException error) {
            review(id, "the database refuses it, as a shipment that is there already: look", body);
        } catch (NotAnEvent error) {
            // No try will mend it: a member is missing or of another kind. A queue that it blocks delivers nothing.
            review(id, "not an event of the gateway", body);
        }
    }

    private void apply(String id, String body) {
        JsonNode event;
        try {
            event = json.readTree(body);
        } catch (JsonProcessingException error) {
            throw new NotAnEvent();
        }
        if (id == null || event == null) {
            throw new NotAnEvent();
        }
        String type = text(event, "event_type");
        String from = text(event, "environment");
        // The unique constraint decides, and not a SELECT before it: two copies may be handled at once.
        if (db.update("INSERT INTO seen VALUES (?) ON CONFLICT DO NOTHING", id) == 0) {
            return;
        }
        if (!environment.equals(from)) {
            review(id, "the money of another environment", body);
            return;
        }
        // Decide on event_type, and never on trade_status: a refund may carry TRADE_SUCCESS.
        String why = switch (type) {
            case "payment.succeeded" -> paid(event);
            case "payment.refunded" -> refunded(event);
            case "payment.late" -> "a payment so old that it may have been handled: look";
            case "payment.conflict" -> "the same identity with other money: look";
            case "trade.closed" -> closed(event);
            // Another kind of notification, or a trade of which Alipay says something new.
            case "notification.other" -> event.has("trade_no") ? "a trade in a state that nobody knows: look" : null;
            case "trade.pending", "trade.finished" -> null;
            default -> "an event type that this program does not know";
        };
        if (why != null) {
            review(id, why, body);
        }
    }

    private String paid(JsonNode event) {
        String number = text(event, "out_trade_no");
        String trade = text(event, "trade_no");
        Map<String, Object> order = order(number);
        if (order == null) {
            return "a payment of an order that is not ours";
        }
        // Hundredths as an integer; there are none where the currency is not CNY.
        if (event.path("total_amount_minor").asLong(-1) != ((Number) order.get("amount_minor")).longValue()) {
            return "the amount is not the order's";
        }
        int moved = db.update(
            "UPDATE orders SET state = 'paid', trade_no = ? WHERE out_trade_no = ? AND state IN ('new', 'closed')",
            trade, number);
        if (moved == 1) {
            db.update("INSERT INTO shipments VALUES (?)", number);
        } else if (order.get("trade_no") != null && !order.get("trade_no").equals(trade)) {
            return "the order was paid by two trades: give one back";
        }
        // Else: it was refunded before this payment came. The order does not move backwards.
        return null;
    }

    private String refunded(JsonNode event) {
        String number = text(event, "out_trade_no");
        String trade = text(event, "trade_no");
        if (!event.path("refund").isObject()) {
            throw new NotAnEvent();
        }
        Map<String, Object> order = order(number);
        if (order == null) {
            return "a refund of an order that is not ours: it proves that there was a payment";
        }
        if (order.get("trade_no") != null && !order.get("trade_no").equals(trade)) {
            return "a refund of another trade than the order's: the order stays as it is";
        }
        long amount = ((Number) order.get("amount_minor")).longValue();
        // Such a trade never paid the order. If its refund took the order over, the trade that pays would not be shipped.
        if (event.path("total_amount_minor").asLong(-1) != amount) {
            return "a refund of a trade that did not pay the order's amount: the order stays as it is";
        }
        // Alipay's figure is the total given back so far; repeats and reorderings cannot make it smaller. It may be missing.
        JsonNode fee = event.path("refund").path("refund_fee_minor");
        long total = Math.max(((Number) order.get("refunded_minor")).longValue(), fee.asLong(0));
        boolean inFull = total >= amount;
        db.update("UPDATE orders SET state = ?, refunded_minor = ?, trade_no = ? WHERE out_trade_no = ?",
            inFull ? "refunded" : "partly_refunded", total, trade, number);
        if (!fee.isIntegralNumber()) {
            return "a refund that does not say how much was given back: look";
        }
        boolean isFirst = List.of("new", "closed").contains(order.get("state"));
        return isFirst ? "refunded before its payment was heard of: look before you ship" : null;
    }

    private String closed(JsonNode event) {
        db.update("UPDATE orders SET state = 'closed' WHERE out_trade_no = ? AND state = 'new'",
            text(event, "out_trade_no"));
        return null;
    }

    private static String text(JsonNode event, String name) {
        if (!event.path(name).isTextual() || event.path(name).asText().indexOf('\0') >= 0) {
            throw new NotAnEvent();
        }
        return event.path(name).asText();
    }

    private static String clean(String text) {
        return text == null ? null : text.replace('\0', '?');
    }

    /** A message that no try will mend. */
    private static class NotAnEvent extends RuntimeException {}

    /** With its row locked: two events of one order are handled one after the other. */
    private Map<String, Object> order(String number) {
        List<Map<String, Object>> rows =
            db.queryForList("SELECT * FROM orders WHERE out_trade_no = ? FOR UPDATE", number);
        return rows.isEmpty() ? null : rows.get(0);
    }

    private void review(String id, String why, String body) {
        db.update("INSERT INTO reviews VALUES (?, ?, ?)", id, why, body);
    }
}
